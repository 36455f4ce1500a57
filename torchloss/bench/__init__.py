"""The benchmark: torchloss against others, taking turns, on the CPU and, where there is one, a GPU.

cases    what is timed: rows of the table of losses, in sets
rivals   who computes it: torchloss, torch, torch.compile and, on a GPU, other packages
step     one call, as training or evaluation makes it
harness  how it is timed: interleaved rounds, medians and quartiles, the memory limit measured in the same rounds
memory   the peak of a call's memory
machine  what the figures depend on
record   a run as a file; report: as a table; figure: as a drawing; compare: two runs
"""
