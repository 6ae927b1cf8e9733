"""One HTML page about a cache: pictures, numbers and sentences, in a file that needs nothing else."""
