"""One file a program that runs models, each registered with `@runtime`."""
