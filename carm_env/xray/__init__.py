"""X-ray formation: from a CT volume and the C-arm's place to an image."""
