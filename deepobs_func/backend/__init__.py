"""What talks to the machine and to torch's private parts: compiling, kernels, threads, memory, precision."""
