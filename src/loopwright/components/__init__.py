"""Parts of a declared run that are chosen by name and are neither data set nor model."""
