"""Ready-made tasks."""

if __name__ != "invdiff.problems":
    raise ImportError("Import this folder as invdiff.problems: under its own name its classes would exist twice.")
