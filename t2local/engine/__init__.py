"""The process's state: one model, its experts, the lock around them, and chats on disk."""
