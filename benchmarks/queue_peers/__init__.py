"""Adapters of the measured queues, one module each, written as each queue's manual recommends."""
