"""What the site makes from the package: pages of its API, of its problems, and plain Markdown."""
