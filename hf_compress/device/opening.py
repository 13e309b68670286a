"""How each runtime opens its file: functions of a file and a number of threads.

Each returns what runs the file on the CPU: float32 pixel values (batch, 3, height, width) in, a list of all outputs of
the model out, as arrays. Each stands alone, for the script beside a deployed file.
"""


def open_onnx(file, threads):
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.log_severity_level = 3
    options.add_session_config_entry("session.force_spinning_stop", "1")  # idle threads leave the cores to others
    session = onnxruntime.InferenceSession(str(file), options, providers=["CPUExecutionProvider"])
    return lambda pixel_values: session.run(None, {"pixel_values": pixel_values})


def open_openvino(file, threads):
    import openvino

    options = {"INFERENCE_PRECISION_HINT": "f32", "INFERENCE_NUM_THREADS": threads}
    compiled = openvino.Core().compile_model(str(file), "CPU", options)
    return lambda pixel_values: [made.copy() for made in compiled(pixel_values).to_tuple()]


def open_executorch(file, threads):
    import torch
    from executorch.extension.pybindings.portable_lib import _unsafe_reset_threadpool
    from executorch.runtime import Runtime

    _unsafe_reset_threadpool(threads)
    forward = Runtime.get().load_program(str(file)).load_method("forward")
    return lambda pixel_values: [made.clone().numpy() for made in forward.execute([torch.from_numpy(pixel_values)])]


def open_litert(file, threads):
    from ai_edge_litert.interpreter import Interpreter

    run = Interpreter(str(file), num_threads=threads).get_signature_runner()

    def call(pixel_values):
        made = run(pixel_values=pixel_values)
        return [made[name] for name in sorted(made, key=lambda name: (len(name), name))]  # output_0, ..., output_10

    return call


def open_pt2(file, threads):
    import torch

    torch.set_num_threads(threads)
    program = torch.export.load(str(file)).module()

    def call(pixel_values):
        with torch.no_grad():
            made = program(torch.from_numpy(pixel_values))
        return [tensor.numpy() for tensor in ([made] if isinstance(made, torch.Tensor) else made)]

    return call


def open_ncnn(file, threads):
    import ncnn
    import numpy as np

    net = ncnn.Net()
    options = net.opt
    options.num_threads = threads
    options.use_fp16_packed = options.use_fp16_storage = options.use_fp16_arithmetic = False
    options.use_bf16_storage = False
    net.load_param(str(file))
    net.load_model(str(file).removesuffix(".param") + ".bin")
    names = sorted(net.output_names(), key=lambda name: (len(name), name))  # out0, ..., out10

    def call(pixel_values):
        extractor = net.create_extractor()
        extractor.input("in0", ncnn.Mat(pixel_values[0]).clone())
        return [np.array(extractor.extract(name)[1])[None] for name in names]

    return call


OPENERS = {
    "onnx": open_onnx,
    "openvino": open_openvino,
    "executorch": open_executorch,
    "litert": open_litert,
    "ncnn": open_ncnn,
    "pt2": open_pt2,
}
