"""Components against simple models of what they do."""
