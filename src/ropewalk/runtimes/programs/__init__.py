"""One file a program that runs models; each holds its `RUNTIME`. `runtimes.registry` finds them all."""
