"""Part of the target layout; see its modules for what each is for."""
