"""Mean-field predictions and statistics of activation functions."""
