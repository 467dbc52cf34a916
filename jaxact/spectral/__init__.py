"""Pure linear algebra: ranks of spectra, and spectra of products, convolutions and Jacobians."""

from jaxact.spectral._graded import GradedProduct as GradedProduct
from jaxact.spectral._graded import graded_spectrum as graded_spectrum
from jaxact.spectral._graded import graded_start as graded_start
from jaxact.spectral._graded import graded_step as graded_step
from jaxact.spectral._noise import MarchenkoPastur as MarchenkoPastur
from jaxact.spectral._noise import marchenko_pastur as marchenko_pastur
from jaxact.spectral._noise import numerical_rank as numerical_rank
from jaxact.spectral._power_laws import AlphaReQ as AlphaReQ
from jaxact.spectral._power_laws import PowerLaw as PowerLaw
from jaxact.spectral._power_laws import alpha_req as alpha_req
from jaxact.spectral._power_laws import power_law as power_law
from jaxact.spectral._products import ProductSpectrum as ProductSpectrum
from jaxact.spectral._products import product_spectrum as product_spectrum
from jaxact.spectral._ranks import condition_number as condition_number
from jaxact.spectral._ranks import effective_rank as effective_rank
from jaxact.spectral._ranks import nuclear_rank as nuclear_rank
from jaxact.spectral._ranks import participation_ratio as participation_ratio
from jaxact.spectral._ranks import rankme as rankme
from jaxact.spectral._ranks import renyi_rank as renyi_rank
from jaxact.spectral._ranks import schatten_norm as schatten_norm
from jaxact.spectral._ranks import schatten_rank as schatten_rank
from jaxact.spectral._ranks import spectral_gap as spectral_gap
from jaxact.spectral._ranks import stable_rank as stable_rank
from jaxact.spectral._singular_values import singular_values as singular_values
