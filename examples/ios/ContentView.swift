// The screen of an app that names the flower in a photograph. Beside it in the target: Network.swift, and
// net.mlpackage from `dwindle export NET.dwindle --target coreml`. iOS 17, Xcode 15.

import PhotosUI
import SwiftUI

@main
struct FlowersApp: App {
    var body: some Scene {
        WindowGroup { ContentView() }
    }
}

struct ContentView: View {
    @State private var chosen: PhotosPickerItem?
    @State private var photo: UIImage?
    @State private var answer = "Choose a photograph."
    @State private var network = Result { try Network() }

    var body: some View {
        VStack(spacing: 16) {
            if let photo {
                Image(uiImage: photo).resizable().scaledToFit()
            }
            Text(answer)
            PhotosPicker("Photograph", selection: $chosen, matching: .images)
        }
        .padding()
        .task(id: chosen) {
            guard let data = try? await chosen?.loadTransferable(type: Data.self) else { return }
            photo = UIImage(data: data)
            answer = name(photo)
        }
    }

    private func name(_ photo: UIImage?) -> String {
        guard let image = photo?.cgImage else { return "This is no image." }
        do {
            let outputs = try network.get().run(image: prepare(image))
            return best(outputs["logits"]!)
        } catch {
            return error.localizedDescription
        }
    }
}
