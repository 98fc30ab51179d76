"""The rules an operator writes and the one pure decision over them."""
