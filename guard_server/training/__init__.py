"""Training the guard's classifiers. Needs the extra `guard-train`; the server never imports it."""
