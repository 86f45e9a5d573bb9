"""What is known of other makers' files: tables of names, and one algorithm that applies them."""
