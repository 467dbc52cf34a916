"""Pure linear algebra: ranks of spectra, and spectra of products, convolutions and Jacobians."""

from jaxact.spectral._products import GradedProduct as GradedProduct
from jaxact.spectral._products import ProductSpectrum as ProductSpectrum
from jaxact.spectral._products import graded_spectrum as graded_spectrum
from jaxact.spectral._products import graded_start as graded_start
from jaxact.spectral._products import graded_step as graded_step
from jaxact.spectral._products import product_spectrum as product_spectrum
from jaxact.spectral._ranks import effective_rank as effective_rank
from jaxact.spectral._ranks import numerical_rank as numerical_rank
from jaxact.spectral._ranks import participation_ratio as participation_ratio
from jaxact.spectral._ranks import stable_rank as stable_rank
from jaxact.spectral._singular_values import singular_values as singular_values
