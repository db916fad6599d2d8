// The screen of an app that names the flower in a photograph. Beside it: Network.kt, and in src/main/assets the file of
// `dwindle export NET.dwindle --target executorch` that Network.kt names. In AndroidManifest.xml nothing is needed.

import android.app.Activity
import android.content.Intent
import android.graphics.ImageDecoder
import android.os.Bundle
import android.provider.MediaStore
import android.widget.Button
import android.widget.ImageView
import android.widget.LinearLayout
import android.widget.TextView
import kotlin.concurrent.thread

class MainActivity : Activity() {
    private val network by lazy { Network(this) }
    private val answer by lazy { TextView(this) }
    private val picture by lazy { ImageView(this) }

    override fun onCreate(saved: Bundle?) {
        super.onCreate(saved)
        val choose = Button(this).apply {
            text = "Photograph"
            setOnClickListener { startActivityForResult(Intent(MediaStore.ACTION_PICK_IMAGES), 1) }
        }
        val column = LinearLayout(this).apply { orientation = LinearLayout.VERTICAL }
        listOf(choose, picture, answer).forEach(column::addView)
        setContentView(column)
    }

    override fun onActivityResult(request: Int, result: Int, data: Intent?) {
        val address = data?.data ?: return
        val photo = ImageDecoder.decodeBitmap(ImageDecoder.createSource(contentResolver, address)) { decoder, _, _ ->
            decoder.isMutableRequired = true
        }
        picture.setImageBitmap(photo)
        thread {
            val outputs = network.run(prepare(photo))
            runOnUiThread { answer.text = best(outputs.getValue("logits")) }
        }
    }
}
