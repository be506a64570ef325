"""What makes a found row a good memory, and one order out of several: without a database."""
