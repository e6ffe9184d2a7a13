"""Drive each queue as its own manual says; one module a queue."""
