"""Train 2-4 bit networks whose weights hold still."""
