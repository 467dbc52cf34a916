"""Pure linear algebra: ranks of spectra, and spectra of products, convolutions and Jacobians."""
