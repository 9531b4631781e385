"""A program written for E2B: a sandbox, code with a chart, files, commands. Nothing in it knows of sandpit.

    pip install e2b-code-interpreter
    python e2b_quickstart.py                 # at E2B, with E2B_API_KEY
    eval "$(sandpit env)"                    # or here
    python e2b_quickstart.py
"""

import base64

from e2b_code_interpreter import Sandbox

sandbox = Sandbox.create(timeout=120, envs={"GREETING": "hello"})
print("sandbox", sandbox.sandbox_id)

# Variables stay from one run to the next.
sandbox.run_code("prices = [101.0, 103.5, 102.2, 106.1, 108.4]")
execution = sandbox.run_code("print(max(prices)); sum(prices) / len(prices)")
print("printed", "".join(execution.logs.stdout).strip(), "and answered", execution.text)

# A figure comes back as a picture.
execution = sandbox.run_code("""
import matplotlib.pyplot as plt
plt.figure(figsize=(6, 4))
plt.plot(range(1, 6), prices, marker="o", label="price")
plt.title("Five days")
plt.xlabel("day")
plt.ylabel("dollars")
plt.legend()
plt.show()
""")
picture = next(result.png for result in execution.results if result.png)
with open("chart.png", "wb") as file:
    file.write(base64.b64decode(picture))
print("chart.png holds the chart")

# Files and commands see the same directory.
sandbox.files.write("data/notes.txt", "written from outside\n")
command = sandbox.commands.run("cat data/notes.txt && echo $GREETING from inside")
print(command.stdout.strip())
print([entry.name for entry in sandbox.files.list("data")])

print("killed", sandbox.kill())
