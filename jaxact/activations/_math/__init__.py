"""Elementary functions to the last place, and sums that keep what rounding takes from them.

``_special`` holds the functions, ``_coefficients`` the polynomials that they evaluate, and
``_generate`` (``python -m jaxact.activations._math._generate``, which needs mpmath) fits these.
"""
