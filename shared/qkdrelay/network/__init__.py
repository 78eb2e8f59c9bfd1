"""The network of KMEs: what is linked, and the graph one relay takes through it."""
