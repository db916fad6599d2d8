// net.pte takes image (float32, 1 x 3 x 224 x 224) and gives logits (float32, 1 x 3).
// In build.gradle.kts: implementation("org.pytorch:executorch-android:1.0.1")
//                      implementation("com.github.luben:zstd-jni:1.5.7-4@aar")
// In src/main/assets: net.pte.zst, which is smaller to download than net.pte

import com.github.luben.zstd.ZstdInputStream
import android.content.Context
import android.graphics.Bitmap
import android.graphics.Color
import java.io.File
import org.pytorch.executorch.EValue
import org.pytorch.executorch.Module
import org.pytorch.executorch.Tensor

class Network(context: Context) {
    private val module = Module.load(installed(context).path)

    /** The outputs by name. */
    fun run(image: FloatArray): Map<String, FloatArray> {
        val found = module.forward(
            EValue.from(Tensor.fromBlob(image, longArrayOf(1, 3, 224, 224))),
        )
        return mapOf(
            "logits" to found[0].toTensor().dataAsFloatArray,
        )
    }
}

/** The file where native code can open it, decompressed from the app's assets when the app first starts. */
private fun installed(context: Context): File {
    val file = File(context.filesDir, "net.pte")
    if (!file.exists()) {
        val part = File(context.filesDir, "net.pte.part")
        ZstdInputStream(context.assets.open("net.pte.zst")).use { source -> part.outputStream().use(source::copyTo) }
        part.renameTo(file)
    }
    return file
}

/** A photograph as the network's image: its centre, scaled and normalised, channel by channel. */
fun prepare(photo: Bitmap): FloatArray {
    val (width, height) = listOf(224, 224)
    val scale = 0.875 * minOf(photo.width.toDouble() / width, photo.height.toDouble() / height)
    val (wide, high) = listOf((width * scale).toInt(), (height * scale).toInt())
    val centre = Bitmap.createBitmap(photo, (photo.width - wide) / 2, (photo.height - high) / 2, wide, high)
    val pixels = IntArray(width * height)
    Bitmap.createScaledBitmap(centre, width, height, true).getPixels(pixels, 0, width, 0, 0, width, height)
    val mean = floatArrayOf(0.485f, 0.456f, 0.406f)
    val std = floatArrayOf(0.229f, 0.224f, 0.225f)
    val channels = listOf<(Int) -> Int>(Color::red, Color::green, Color::blue)
    return FloatArray(3 * pixels.size) { at ->
        val channel = at / pixels.size
        (channels[channel](pixels[at % pixels.size]) / 255f - mean[channel]) / std[channel]
    }
}

val CLASSES = listOf("daisy", "rose", "tulip")

/** The name of the class with the largest score. */
fun best(scores: FloatArray): String = CLASSES[scores.indices.maxBy { at -> scores[at] }]
