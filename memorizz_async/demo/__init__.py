"""The demo: real conversations in, questions asked, and where the time went."""
