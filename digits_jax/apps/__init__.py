"""Commands for trained models (`predict`, `demo`, `evaluate`, `export`, `replay`), and `doctor` for the machine."""
