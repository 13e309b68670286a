"""The machine and the versions that the tables beside this one are from.

python benchmarks/machine.py
"""

from hf_compress.ground.environment import environment

if __name__ == "__main__":
    print("| machine | |")
    print("|---|---|")
    for name, value in environment().items():
        print(f"| {name} | {value} |")
