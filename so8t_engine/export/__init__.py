"""Files for other programs: GGUF for llama.cpp and what stands on it."""
