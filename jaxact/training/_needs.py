from jaxact._extras import require

require("studies", "flax", "optax", "orbax", "sklearn", "tqdm")
