"""What array libraries do differently, and nothing else: three verbs, one file a library."""
