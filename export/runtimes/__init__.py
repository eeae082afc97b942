"""Trained models as files of LiteRT, ONNX and OpenVINO and as a page, each checked against Keras.

    <folder>/<name>/<version>-runtimes/
        litert/     model_float32.tflite, model_float16.tflite, model_int8.tflite: one crop a call
        onnx/       model.onnx: N crops
        openvino/   model.xml, model.bin: N crops
        page/       index.html and all that it needs to run model.onnx in a browser

Each folder also holds `faceattr.json`, which says what goes in and comes out, and `face_crop.py`,
which cuts crops out of pictures with NumPy and OpenCV alone (the page: `face_crop.js`). The folder
stands beside the SavedModel of the same number, `<folder>/<name>/<version>/`, not in it: a server of
SavedModels copies and watches that one, and would take a numbered folder without a SavedModel for a
broken version.

These networks see crops (float32, RGB in 0..255) and answer as the SavedModel does: calibrated
probabilities, labels by the workdir's thresholds, under the same names. Only points stay in the
crop, from -1 to 1, as the network does not know where in its picture the crop lies.
"""
