"""What suites, benches and `make run` share: engines to talk to, an image to run, a look at what is left behind."""
