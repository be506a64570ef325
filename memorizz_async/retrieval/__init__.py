"""What makes a found row a good memory: pure functions, without a database."""
