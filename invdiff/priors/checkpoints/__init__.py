"""Checkpoints people have: what each family of files holds, told from the file's content."""

__all__: list[str] = []
