"""From a model to the plans of its engines, and the cache that keeps graphs and plans."""
