"""Training the guard's classifiers: material, data, model, export, evaluation. Needs the extra `guard-train`; the server never imports it."""
