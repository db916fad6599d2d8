"""Channel surgery: labels carried through a traced graph find what must go together; cuts are proven."""
