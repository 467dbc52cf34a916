from jaxact._extras import require

require("models", "flax")
