"""Named arrays from and to files, and files that are whole or absent."""

from jaxact.io._folder import read_config as read_config
from jaxact.io._mapped import TooLargeError as TooLargeError
from jaxact.io._read import outputs_first as outputs_first
from jaxact.io._read import read_arrays as read_arrays
from jaxact.io._safetensors import read_metadata as read_metadata
from jaxact.io._safetensors import write_safetensors as write_safetensors
from jaxact.io._write import of_file as of_file
from jaxact.io._write import replacing as replacing
from jaxact.io._write import write_whole as write_whole
