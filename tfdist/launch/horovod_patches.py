"""What is changed in Horovod's own sources before they are compiled.

**Cycles.** Horovod's background thread agrees with all ranks every millisecond on
whether there is work, also when there is none: a tenth of a core in each rank, taken
from the model where every core computes, and a tensor waits half a millisecond to be
seen. So here a cycle begins as soon as a tensor is queued, not less than
HOROVOD_CYCLE_TIME after the one before (small tensors still travel together), and
without one after IDLE_MILLISECONDS.

Not where ranks have to take part in what they have queued nothing for, quickly: with
process sets, after a `join`; and not under MPI, whose collectives keep a core busy
while they wait.

**Copies.** Horovod copies what it sums into a new tensor first, between one sum and
the next, while nothing travels. Here TensorFlow hands over the tensor's own memory
where nobody else reads it: 61 ms instead of 72 for 50 MB between two processes.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from tfdist.launch.errors import FAILED, CommandError

IDLE_MILLISECONDS = 10

ALARM_HEADER = Path("horovod/common/tfdist_alarm.h")

ALARM_TEXT = f"""\
#pragma once
#include <chrono>
#include <condition_variable>
#include <mutex>

namespace tfdist {{

// Wakes Horovod's background thread where there is work for it.
class Alarm {{
 public:
  void ring() {{
    {{
      std::lock_guard<std::mutex> guard(mutex_);
      rung_ = true;
    }}
    changed_.notify_one();
  }}

  // Returns once it has rung since the last call, or a while later.
  void wait() {{
    std::unique_lock<std::mutex> lock(mutex_);
    changed_.wait_for(lock, std::chrono::milliseconds({IDLE_MILLISECONDS}),
                      [this] {{ return rung_; }});
    rung_ = false;
  }}

 private:
  std::mutex mutex_;
  std::condition_variable changed_;
  bool rung_ = false;
}};

inline Alarm& alarm() {{
  static Alarm one;
  return one;
}}

}}  // namespace tfdist
"""


@dataclass(frozen=True)
class Patch:
    """Lines of a source file that take the place of others, which occur once."""

    file: str
    old: str
    new: str


PATCHES = (
    Patch(
        "horovod/common/tensor_queue.cc",
        '#include "logging.h"\n',
        '#include "logging.h"\n#include "tfdist_alarm.h"\n',
    ),
    Patch(
        "horovod/common/tensor_queue.cc",
        "  message_queue_.push(std::move(message));\n  return Status::OK();\n",
        "  message_queue_.push(std::move(message));\n"
        "  tfdist::alarm().ring();\n"
        "  return Status::OK();\n",
    ),
    Patch(
        "horovod/common/tensor_queue.cc",
        "    message_queue_.push(std::move(messages[i]));\n  }\n",
        "    message_queue_.push(std::move(messages[i]));\n  }\n"
        "  tfdist::alarm().ring();\n",
    ),
    # Not ready on all ranks: asked again after HOROVOD_CYCLE_TIME.
    Patch(
        "horovod/common/tensor_queue.cc",
        "  while (!messages.empty()) {\n    Request& message = messages.front();\n",
        "  if (!messages.empty()) tfdist::alarm().ring();\n"
        "  while (!messages.empty()) {\n    Request& message = messages.front();\n",
    ),
    Patch(
        "horovod/common/operations.cc",
        '#include "operations.h"\n',
        '#include "operations.h"\n#include "tfdist_alarm.h"\n',
    ),
    Patch(
        "horovod/common/operations.cc",
        "    std::this_thread::sleep_for(sleep_duration);\n  }\n",
        "    std::this_thread::sleep_for(sleep_duration);\n  }\n"
        "  if (state.control_operation == LibType::GLOO &&\n"
        "      !state.dynamic_process_sets &&\n"
        "      state.process_set_table.Ids().size() == 1 &&\n"
        "      !state.process_set_table.Get(0).joined) {\n"
        "    tfdist::alarm().wait();\n"
        "  }\n",
    ),
    # On CPUs, where it was tried; TensorFlow knows who else reads the tensor.
    Patch(
        "horovod/tensorflow/mpi_ops.cc",
        "    auto tensor = context->input(0);\n"
        "    horovod::common::ReduceOp reduce_op = "
        "static_cast<horovod::common::ReduceOp>(reduce_op_);\n"
        "    Tensor* output;\n"
        "    OP_REQUIRES_OK_ASYNC(\n"
        "        context, context->allocate_output(0, tensor.shape(), &output), "
        "done);\n",
        "    horovod::common::ReduceOp reduce_op = "
        "static_cast<horovod::common::ReduceOp>(reduce_op_);\n"
        "    Tensor* output;\n"
        "    const auto& shape = context->input(0).shape();\n"
        "    const bool in_place = device == CPU_DEVICE_ID &&\n"
        "                          reduce_op == horovod::common::ReduceOp::SUM;\n"
        "    OP_REQUIRES_OK_ASYNC(\n"
        "        context,\n"
        "        in_place ? context->forward_input_or_allocate_output(\n"
        "                       {0}, 0, shape, &output)\n"
        "                 : context->allocate_output(0, shape, &output),\n"
        "        done);\n"
        "    auto tensor = context->input(0);\n",
    ),
    Patch(
        "horovod/common/ops/gloo_operations.cc",
        "    buffer_data = (void*)first_entry.output->data();\n"
        "    std::memcpy(buffer_data, first_entry.tensor->data(),\n"
        "                (size_t)first_entry.tensor->size());\n"
        "    fused_input_data = buffer_data;\n"
        "  }\n"
        "\n"
        "  if (prescale_factor != 1.0) {\n",
        "    buffer_data = (void*)first_entry.output->data();\n"
        "    if (buffer_data != first_entry.tensor->data()) {\n"
        "      std::memcpy(buffer_data, first_entry.tensor->data(),\n"
        "                  (size_t)first_entry.tensor->size());\n"
        "    }\n"
        "    fused_input_data = buffer_data;\n"
        "  }\n"
        "\n"
        "  if (prescale_factor != 1.0) {\n",
    ),
)


def patch_sources(folder: Path) -> None:
    """Changes Horovod's unpacked sources.

    Args:
        folder: What the source archive holds, with `setup.py`.

    Raises:
        CommandError: A place to be changed is not there, or not the only one.
    """
    for patch in PATCHES:
        path = folder / patch.file
        text = path.read_text()
        if (times := text.count(patch.old)) != 1:
            raise CommandError(
                f"{patch.file} of Horovod's sources has {times} places like "
                f"{patch.old.splitlines()[0].strip()!r}, where tfdist expects one.",
                hint="these are not the sources that this tfdist knows; upgrade it",
                exit_code=FAILED,
            )
        path.write_text(text.replace(patch.old, patch.new))
    (folder / ALARM_HEADER).write_text(ALARM_TEXT)
