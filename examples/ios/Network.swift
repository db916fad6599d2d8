// net.mlpackage takes image (float32, 1 x 3 x 224 x 224) and gives logits (float32, 1 x 3).
// Add net.mlpackage to the app's target: Xcode compiles it to net.mlmodelc.

import CoreGraphics
import CoreML

final class Network {
    private let model: MLModel

    init() throws {
        let url = Bundle.main.url(forResource: "net", withExtension: "mlmodelc")!
        model = try MLModel(contentsOf: url)
    }

    /// The outputs by name.
    func run(image: [Float]) throws -> [String: [Float]] {
        let feed = try MLDictionaryFeatureProvider(dictionary: [
            "image": MLMultiArray(MLShapedArray(scalars: image, shape: [1, 3, 224, 224])),
        ])
        let found = try model.prediction(from: feed)
        var outputs: [String: [Float]] = [:]
        for name in found.featureNames {
            if let array = found.featureValue(for: name)?.multiArrayValue {
                outputs[name] = MLShapedArray<Float>(converting: array).scalars
            }
        }
        return outputs
    }
}

/// A photograph as the network's image: its centre, scaled and normalised, channel by channel.
func prepare(_ photo: CGImage) -> [Float] {
    let (width, height) = (224, 224)
    let share = 0.875
    let scale = share * min(Double(photo.width) / Double(width), Double(photo.height) / Double(height))
    let (wide, high) = (Double(width) * scale, Double(height) * scale)
    let (left, top) = ((Double(photo.width) - wide) / 2, (Double(photo.height) - high) / 2)
    let centre = photo.cropping(to: CGRect(x: left, y: top, width: wide, height: high))!
    var pixels = [UInt8](repeating: 0, count: 4 * width * height)
    let context = CGContext(
        data: &pixels, width: width, height: height, bitsPerComponent: 8, bytesPerRow: 4 * width,
        space: CGColorSpace(name: CGColorSpace.sRGB)!, bitmapInfo: CGImageAlphaInfo.noneSkipLast.rawValue)!
    context.interpolationQuality = .high
    context.draw(centre, in: CGRect(x: 0, y: 0, width: width, height: height))
    let (mean, std): ([Float], [Float]) = ([0.485, 0.456, 0.406], [0.229, 0.224, 0.225])
    var values: [Float] = []
    for (channel, offset) in [0, 1, 2].enumerated() {
        for at in 0..<(width * height) {
            values.append((Float(pixels[4 * at + offset]) / 255 - mean[channel]) / std[channel])
        }
    }
    return values
}

let classes = ["daisy", "rose", "tulip"]

/// The name of the class with the largest score.
func best(_ scores: [Float]) -> String {
    classes[scores.indices.max { scores[$0] < scores[$1] }!]
}
