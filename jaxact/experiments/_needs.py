from jaxact._extras import require

require("studies", "pandas", "pyarrow", "matplotlib", "tyro", "jinja2")
