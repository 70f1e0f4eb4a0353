"""The bundled tiny models, what makes them, and the tasks that they can learn in a minute on a CPU."""
