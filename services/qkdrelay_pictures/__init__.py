"""Pictures: a plan on its network, and what every pair of a network withstands; as SVG, and as PNG made of that."""
