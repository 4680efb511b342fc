"""What things cost, side by side; README.md has the commands and the latest figures."""
