"""The benchmark: torchloss against torch.nn.functional, taking turns, on the CPU and, where there is one, a GPU.

cases    what is timed
harness  how: interleaved rounds, medians and quartiles, the memory limit measured in the same run
"""
