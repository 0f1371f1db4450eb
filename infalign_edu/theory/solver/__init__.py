"""How optima are found: quadrature panels, thin layers, the one-curve theorem, shooting, Newton, finite levels."""
