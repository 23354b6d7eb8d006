# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import shutil

import pytest

from megacpt.preflight.gpus import Gpu, query, read

# The form of `nvidia-smi -q -x`, by driver 575 and by an older one with an older card.
H100 = """<?xml version="1.0" ?>
<!DOCTYPE nvidia_smi_log SYSTEM "nvsmi_device_v12.dtd">
<nvidia_smi_log>
  <driver_version>575.51.02</driver_version>
  <cuda_version>12.9</cuda_version>
  <gpu id="00000000:0F:00.0">
    <product_name>NVIDIA H100 80GB HBM3</product_name>
    <gpu_recovery_action>{action}</gpu_recovery_action>
    <fb_memory_usage><total>81559 MiB</total><used>{used} MiB</used></fb_memory_usage>
    <clocks_event_reasons>
      <clocks_event_reason_gpu_idle>Active</clocks_event_reason_gpu_idle>
      <clocks_event_reason_hw_thermal_slowdown>{hot}</clocks_event_reason_hw_thermal_slowdown>
    </clocks_event_reasons>
    <ecc_errors>
      <volatile>
        <sram_correctable>7</sram_correctable>
        <sram_uncorrectable_parity>0</sram_uncorrectable_parity>
        <dram_uncorrectable>{errors}</dram_uncorrectable>
      </volatile>
      <aggregate><sram_threshold_exceeded>No</sram_threshold_exceeded></aggregate>
    </ecc_errors>
    <retired_pages><pending_retirement>N/A</pending_retirement></retired_pages>
    <remapped_rows><remapped_row_pending>{pending}</remapped_row_pending></remapped_rows>
  </gpu>
</nvidia_smi_log>
"""
OLD = """<nvidia_smi_log><driver_version>450.80</driver_version><gpu>
  <product_name>Tesla K80</product_name>
  <fb_memory_usage><total>11441 MiB</total><used>0 MiB</used></fb_memory_usage>
  <ecc_errors><volatile><double_bit><total>N/A</total></double_bit></volatile></ecc_errors>
  <retired_pages><pending_retirement>Yes</pending_retirement></retired_pages>
</gpu></nvidia_smi_log>"""
WELL = {"action": "None", "used": "4", "hot": "Not Active", "errors": "0", "pending": "No"}


def gpu(**changes: str) -> Gpu:
    (found,) = read(H100.format(**WELL | changes)).gpus
    return found


def test_a_card_that_is_well() -> None:
    log = read(H100.format(**WELL))
    assert (log.driver, log.cuda) == ("575.51.02", "12.9")
    assert log.gpus == [
        Gpu(index=0, name="NVIDIA H100 80GB HBM3", memory_mib=81559, used_mib=4),
    ]


def test_faults_and_notes() -> None:
    assert gpu(errors="3").faults == ["3 uncorrectable memory errors"]
    assert gpu(pending="Yes").faults == ["a memory row waits to be replaced"]
    assert gpu(action="Drain and Reset").faults == ["the driver asks for: Drain and Reset"]
    assert gpu(hot="Active").notes == ["slowed down (thermal slowdown)"]
    assert gpu(errors="N/A", action="N/A").faults == []


def test_an_old_driver_knows_less() -> None:
    log = read(OLD)
    assert log.cuda == ""
    assert log.gpus[0].faults == ["a memory page waits to be retired"]


@pytest.mark.skipif(shutil.which("nvidia-smi") is not None, reason="the tool is here")
def test_no_tool_no_gpus() -> None:
    assert query() is None


@pytest.mark.gpu
@pytest.mark.skipif(shutil.which("nvidia-smi") is None, reason="no NVIDIA driver")
def test_the_real_driver_is_understood() -> None:
    found = query()
    assert found is not None
    assert found.problem == ""
    assert found.gpus
    assert found.gpus[0].memory_mib > 1000
