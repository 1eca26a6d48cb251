"""Base models: fetch, load (float, NF4 or int8), format chats, generate. Adapted in `svf`."""
