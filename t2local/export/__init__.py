"""Experts for other programs: a PEFT LoRA adapter, or a merged checkpoint."""
