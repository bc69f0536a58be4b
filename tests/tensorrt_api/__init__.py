"""The true API of every supported TensorRT, read from its Python bindings without its libraries."""
